"""AE-PSL: pixel-wise segmentation learnt from image-level labels (Wei et al., CVPR 2017)."""
