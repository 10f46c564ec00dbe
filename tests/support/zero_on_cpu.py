"""`lookback` under ZeRO 3 on a machine without a GPU: transformers (5.23) begins DeepSpeed's communication there only
behind the first weights that are to be shared out."""

if __name__ == "__main__":
    import deepspeed

    deepspeed.init_distributed("gloo")

    from trainers.cli import main

    main()
