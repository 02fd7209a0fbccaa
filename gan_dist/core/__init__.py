"""Parts that know nothing of GANs: errors, random numbers, threads, memory, the console, storage."""
