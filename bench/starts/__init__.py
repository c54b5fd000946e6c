"""What a prompt should start from where records are few, and whether a source prompt pays."""
