"""From runs to one self-contained HTML page."""
