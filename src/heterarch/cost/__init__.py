"""What an op costs on an engine: time, memory, energy, money, carbon; and where each prediction comes from."""
