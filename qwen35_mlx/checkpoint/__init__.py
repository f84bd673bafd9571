"""Files on disk or on the Hub, whatever their layout, to weights."""
