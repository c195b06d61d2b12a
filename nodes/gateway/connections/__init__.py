"""What one HTTP connection may cost before anybody has shown an API key on it, and afterwards."""
