"""As many processes as were asked for, or an error before any work."""

import pytest
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from trainers import cli
from trainers.base.arguments import FamilyArguments
from trainers.commands import finetune
from trainers.jobs import processes
from trainers.jobs.launch import check_alone, check_launch, launched_processes

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def simple_launch(monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, str]:
    """What `accelerate launch` tells the single process that it starts without `--multi_gpu`."""
    for name in (*TORCHRUN, "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    given = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *options, "script.py"]
    args = launch_command_parser().parse_args(given)
    args.use_cpu, args.num_cpu_threads_per_process = args.cpu, 1
    return prepare_simple_launcher_cmd_env(args)[1]


@pytest.mark.parametrize("how", [["--num_processes", "2"], ["--cpu", "--num_processes", "8"]])
def test_several_that_became_one_are_refused(monkeypatch, how):
    with pytest.raises(ValueError, match=r"several processes and started one.*torchrun --nproc_per_node N"):
        check_launch(simple_launch(monkeypatch, *how))


def test_what_was_asked_for_goes_on(monkeypatch):
    for how in (["--num_processes", "1"], ["--cpu", "--num_processes", "1"]):
        check_launch(simple_launch(monkeypatch, *how))
    check_launch({})
    check_launch(TORCHRUN)
    check_launch({**TORCHRUN, "ACCELERATE_MIXED_PRECISION": "no"})  # accelerate launch --multi_gpu
    under_mpirun = {**simple_launch(monkeypatch, "--num_processes", "2"), "PMI_SIZE": "2"}
    check_launch(under_mpirun)
    assert [launched_processes(one) for one in ({}, TORCHRUN, under_mpirun)] == [None, 2, 2]


def test_a_job_refuses_it_before_it_reads_anything(monkeypatch, tmp_path):
    for name, value in simple_launch(monkeypatch, "--num_processes", "2").items():
        monkeypatch.setenv(name, value)
    argv = ["finetune", "--model", "no/such", "--train_data", "none.jsonl", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="several processes and started one"):
        finetune.main(argv[1:])
    with pytest.raises(ValueError, match="several processes and started one"):
        FamilyArguments(str(tmp_path / "run"))
    monkeypatch.setattr("sys.argv", ["lookback", *argv])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and not (tmp_path / "run").exists()


def test_the_work_of_one_is_not_done_twice(monkeypatch, capsys):
    with pytest.raises(ValueError, match="2 processes were started, and `lookback push` is the work of one"):
        check_alone("push", TORCHRUN)
    check_alone("push", {"WORLD_SIZE": "1"})
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    for command in cli.COMMANDS.keys() - set(cli.SHARED):
        monkeypatch.setattr("sys.argv", ["lookback", command])
        with pytest.raises(SystemExit):
            cli.main()
        assert f"`lookback {command}` is the work of one" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(processes.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(processes.torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started on a machine with 1 GPU"):
        processes.check_processes()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    processes.check_processes()
