"""Packaging of medjax: `pip install .`, or `make test` to work on it."""

import pathlib

import setuptools

setuptools.setup(
  name="medjax",
  version="0.1.0",
  description="Supervised fine-tuning and direct preference optimization of language models on clinical tasks, in JAX",
  long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["medjax", "medjax.*"]),
  package_data={"medjax": ["**/*.j2"]},
  entry_points={"console_scripts": ["medjax = medjax.cli.main:console"]},
  # These releases are tried together: requirements/python3.11.txt pins them, and `make lock` keeps it so.
  install_requires=[
    "absl-py>=2.5.1",
    "datasets>=5.2.0",
    "datasketch>=2.0.0",
    "flax>=0.12.8",
    "gguf>=0.19.0",
    "grain>=0.2.18",
    "huggingface_hub>=2.4.0",
    "jax>=0.10.2",
    "jaxtyping>=0.3.11",
    "jinja2>=3.1.6",
    "matplotlib>=3.11.2",
    "ml-collections>=1.1.0",
    "numpy>=2.4.6",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pyarrow>=26.0.1",
    "pyyaml>=6.0.4",
    "rouge-score>=0.1.2",
    "safetensors>=0.8.0",
    "scikit-learn>=1.9.1",
    "scipy>=1.17.1",
    "tensorboardX>=2.6.5",
    "tokenizers>=0.23.3",
    "tqdm>=4.70.1",
    "transformers>=5.24.0",
  ],
  extras_require={
    "tpu": ["jax[tpu]>=0.10.2"],
    "reference": ["peft>=0.21.2", "torch>=2.13.0", "trl>=1.16.0"],  # what tests and tests/peers compare medjax with
    "plan": ["jax[tpu]>=0.10.2"],  # the TPU's compiler, which needs no TPU
    "cuda12": ["jax[cuda12]>=0.10.2"],
    "cuda13": ["jax[cuda13]>=0.10.2"],
    "test": [
      "beartype>=0.23.1",
      "hypothesis>=6.170.17",
      "jsonschema>=4.26.0",
      "markdown-it-py>=4.3.0",  # reads report.md as a renderer does
      "kubernetes-validate>=1.37.0",  # the schemas of Kubernetes, for what launch/gke.py writes
      "pytest>=9.2.0",
      "pytest-xdist>=3.8.0",
      "qwix>=0.1.8",
      "ruff>=0.17.6",
      "statsmodels>=0.15.0",
    ],
  },
)
