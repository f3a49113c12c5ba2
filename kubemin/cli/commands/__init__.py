"""The commands of kubeminctl, a file a command; each has one `command`."""
