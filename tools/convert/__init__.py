"""The convert command: settings of other trainers as a recipe of this project."""
