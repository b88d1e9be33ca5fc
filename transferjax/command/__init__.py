"""The command `transferjax`, and what it does as functions.

main       the subcommands
flags      their flags, and what --help says of models and units
questions  attacks with budgets as people write them
given      models and data as people name them: files, functions, PyTorch modules, services
evaluate   surrogates x attacks x budgets x targets -> a tidy table and a page
answers    what models say of images, and doubts about what they see
shown      the table, its marks, its images and its page
written    adversarial images as PNG files
measure    smoothness, gradient norm and similarity of models
doctor     what is installed, and whether it works
"""
