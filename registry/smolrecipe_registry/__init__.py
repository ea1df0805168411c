"""Who offers what: finding plugins, collecting what they offer, running one of them alone."""
