"""A user's own model: loading it, finding its features, looking it over."""
