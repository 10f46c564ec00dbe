"""What a training, an encoding or a reading takes before it runs: parameters, memory, operations, hours."""
