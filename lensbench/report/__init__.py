"""Reports: records in, text, figures and tables out. Nothing here needs torch or a model."""
