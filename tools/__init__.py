"""What a person runs by hand and the product does not import."""
