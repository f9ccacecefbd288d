"""`report`: what a trace says, as one HTML file. Tables and figures are data in it, and drawn by the page's own script."""
