"""Write the generated parts of README.md, docs/ and dvc.yaml."""
