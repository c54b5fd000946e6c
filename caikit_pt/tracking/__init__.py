"""Where people look at trainings: what is told of one, and how MLflow and TensorBoard keep it."""
