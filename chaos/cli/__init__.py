"""The command `crashbed`: one module per verb."""
