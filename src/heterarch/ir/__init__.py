"""The intermediate representation: dialects ``agent`` and ``serve``, their passes, text and flat form."""
