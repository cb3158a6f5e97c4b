"""The commands `servable` and `tensorflow_model_server`."""
