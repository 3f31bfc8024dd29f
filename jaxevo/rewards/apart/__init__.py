"""What runs in worker processes; loaded there by path, so its files import nothing of jaxevo."""
