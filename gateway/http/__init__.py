"""The client's side: connections, requests and answers over HTTP/1.1."""
