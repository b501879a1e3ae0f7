"""The lens: what each residual vector would predict if the model stopped there."""
