"""A trained model for those who deploy it elsewhere: the formats, each compared with the model before it is kept."""
