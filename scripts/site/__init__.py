"""The documentation site: what mkdocs is told of the classes and of the results files.

``hooks.py`` adds the generated pages, ``docstrings.py`` prepares docstrings for mkdocstrings.
"""
