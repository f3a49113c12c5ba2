"""What `kubeminctl doctor` looks at, a file a subject. A check reads, changes nothing, and says what to do."""
