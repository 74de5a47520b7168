"""Results for people: plots, tables, and one HTML file that shows everything side by side. See the modules."""
