"""The pages, one module for each subject. Each has `routes()`."""
