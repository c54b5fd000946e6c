"""From a name to the weights in memory: directories, files, what they tell before they are read."""
