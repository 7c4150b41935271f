"""Engines behind one protocol: embedded llama.cpp, any OpenAI-compatible endpoint, and a fake for tests."""
