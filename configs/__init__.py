"""The YAML recipes that come with Mixwright, and how a recipe is read and checked."""
