"""What a request leaves behind for operators: its log line, its metrics, its trace."""
