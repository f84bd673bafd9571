"""One network in several processes, of which the first leads and the others follow."""
