"""A trained network as a file for others: ONNX, torch.export, safetensors, and the Hub."""
