"""What users run today, in our own words and called as in the field. Nothing outside benchmarks imports from here.

Images are opened by Pillow's own classes, which `Image.open` ends in.
"""
