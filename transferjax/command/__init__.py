"""The command `transferjax`, and what it does as functions.

main       the subcommands, one line each, and their flags
given      models and data as people name them: files, functions, PyTorch modules, services
evaluate   surrogates x attacks x budgets x targets -> a tidy table and a page
written    adversarial images as PNG files
measure    smoothness, gradient norm and similarity of models
doctor     what is installed, and whether it works
"""
