"""Tables, figures and pages from tidy results."""

from transferjax import extras

extras.require_all("report", "transferjax.report")

from transferjax.report.curves import (
    correlation_intervals,
    metric_curves,
    spectral_densities,
    training_curves,
)
from transferjax.report.figures import asr_by_mechanism, metric_by_mechanism, smoothness_similarity_plane
from transferjax.report.maps import attention_grid, image_grid, loss_surfaces, similarity_heatmap
from transferjax.report.page import ReportPaths, Section, images_section, write_report, write_sections
from transferjax.report.printed import to_html, to_markdown, to_text
from transferjax.report.tables import (
    COLUMNS,
    NOISE,
    Table,
    asr_table,
    below_noise,
    explained_table,
    model_table,
    spread,
    value_table,
)

__all__ = [
    "COLUMNS",
    "NOISE",
    "ReportPaths",
    "Section",
    "Table",
    "asr_by_mechanism",
    "asr_table",
    "attention_grid",
    "below_noise",
    "correlation_intervals",
    "explained_table",
    "image_grid",
    "images_section",
    "loss_surfaces",
    "metric_by_mechanism",
    "metric_curves",
    "model_table",
    "similarity_heatmap",
    "smoothness_similarity_plane",
    "spectral_densities",
    "spread",
    "to_html",
    "to_markdown",
    "to_text",
    "training_curves",
    "value_table",
    "write_report",
    "write_sections",
]
