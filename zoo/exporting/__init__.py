"""Exporting: a bundle of one backbone and one linear classifier as the flat folder of its own library, or as ONNX.

``parts`` takes the model apart and refuses what no layout has; ``timm_layout`` and ``transformers_layout`` say what the
library's own model is and which files it loads; ``writing`` writes the folder, loads it with the library and compares.
``onnx_file`` makes an ONNX file of any heads on pictures.
"""
