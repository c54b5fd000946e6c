"""Where people look at trainings: MLflow, TensorBoard. What is told of a training, and how each of them keeps it."""
