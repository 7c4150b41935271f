"""Files that others measured: kernels, iterations, requests and served points, read and screened."""
