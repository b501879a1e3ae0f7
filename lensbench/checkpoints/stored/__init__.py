"""What a checkpoint's files hold: tensors, finite or not, and whether they are all there."""
