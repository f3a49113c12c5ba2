"""What the daemon tells the operator: log records as text, JSON or journald fields. Imports nothing else of kubemin."""
