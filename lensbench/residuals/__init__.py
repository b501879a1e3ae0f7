"""Residuals: token batches in, the residual stream and the model's own logits out."""
