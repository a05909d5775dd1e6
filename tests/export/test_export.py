"""Exported detectors: ONNX in onnxruntime and torch.export programs say what the model says, at several sizes."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.structures import Boxes

from export_models import EXPORTED, export_model
from helpers import random_batch
from sqr.errors import UserError
from sqr.export import AXES, OPSET, DeployedDetector, example_inputs, export_onnx, export_program, onnx_runner
from sqr.ops.functional import library
from sqr.recollection import Plan

SIZES = [(1, 160, 96), (3, 97, 255)]  # batch, height, width; exports are traced with 2 x 128 x 160


@torch.no_grad()
def assert_equal(expected, actual, inputs):
    for ours, theirs in zip(expected(*inputs), actual(*inputs), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("detector", EXPORTED)
def test_deployed_detector_is_the_model(detector):
    model = export_model(detector)
    sizes = [(128, 160), (96, 120)]
    batch = random_batch(sizes, [0, 0])
    images = torch.full((2, 3, 128, 160), 99.0)  # what lies beyond an image is ignored
    for pixels, item, (height, width) in zip(images, batch, sizes, strict=True):
        pixels[:, :height, :width] = item["image"]
    with torch.no_grad():
        inputs = images, torch.tensor(sizes)
        scores, labels, boxes = DeployedDetector(model=model, outputs="pairs")(*inputs)
        for i, output in enumerate(model(batch)):
            instances = output["instances"]
            torch.testing.assert_close(scores[i], instances.scores)
            assert torch.equal(labels[i], instances.pred_classes)
            torch.testing.assert_close(boxes[i], instances.pred_boxes.tensor, atol=1e-3, rtol=1e-4)
        scores, labels, boxes = DeployedDetector(model=model)(*inputs)
        for i, stages in enumerate(model.forward_stages(batch)):
            best, order = stages.scores[-1].max(-1).values.sort(descending=True)
            torch.testing.assert_close(scores[i], best)
            assert torch.equal(labels[i], stages.scores[-1].argmax(-1)[order])
            expected = Boxes(stages.boxes[-1][order])
            expected.clip(stages.image_size)
            torch.testing.assert_close(boxes[i], expected.tensor, atol=1e-3, rtol=1e-4)


def test_a_model_that_ends_early_is_exported_so():
    model, inputs = export_model("deformable_refine", num_stages=2), example_inputs()
    with torch.no_grad():
        full = DeployedDetector(model=model, outputs="raw")(*inputs)
        model.decoder.inference_plan = Plan.sequential(2, stages=1)
        early = DeployedDetector(model=model, outputs="raw")(*inputs)
        program = export_program(model, outputs="raw")
        assert_equal(program.module(), lambda *x: early, inputs)
    assert (full[1] - early[1]).abs().max() > 1e-3


@pytest.mark.parametrize("detector", EXPORTED)
def test_onnx_equals_eager_at_any_size(detector, tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = export_model(detector)
    export_onnx(model, tmp_path / "model.onnx", metadata={"class_names": ["a"]})
    written = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(written)
    assert [(o.domain, o.version) for o in written.opset_import if o.domain in ("", "ai.onnx")] == [("", OPSET)]
    assert {node.domain for node in written.graph.node} <= {"", "ai.onnx"}  # no operator of ours
    for graph_input in written.graph.input:
        named = {i: d.dim_param for i, d in enumerate(graph_input.type.tensor_type.shape.dim) if d.dim_param}
        assert named == AXES[graph_input.name]
    assert [o.name for o in written.graph.output] == ["scores", "labels", "boxes"]
    assert json.loads({p.key: p.value for p in written.metadata_props}["class_names"]) == ["a"]
    run = onnx_runner(tmp_path / "model.onnx")
    for batch, height, width in SIZES:
        assert_equal(DeployedDetector(model=model), run, example_inputs(batch=batch, height=height, width=width))


@pytest.mark.parametrize("detector", ["deformable_refine", "adamixer"])
def test_program_keeps_each_operator_as_one_node(detector, tmp_path):
    if library.path is None:
        pytest.skip(f"the operators are not compiled: {library.reason}")
    model = export_model(detector, num_stages=2)
    program = export_program(model, outputs="raw")
    name, count = ("adaptive_sample", 2) if detector == "adamixer" else ("ms_deform_attn", 2)  # one in each stage
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count(f"sqr.{name}.default") == count
    assert not [t for t in targets if "grid_sampler" in t]
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for batch, height, width in SIZES:
        inputs = example_inputs(batch=batch, height=height, width=width)
        assert_equal(DeployedDetector(model=model, outputs="raw"), loaded, inputs)


def test_recollection_leaves_no_trace_in_the_graph():
    graphs = []
    for plan in ("sequential", "selective"):
        program = export_program(export_model("deformable_refine", plan, 2), reference=True, dynamic=False)
        assert not [node for node in program.graph.nodes if "sqr." in str(node.target)]
        nodes = [(n.op, str(n.target), str(getattr(n.meta.get("val"), "shape", ""))) for n in program.graph.nodes]
        graphs.append((nodes, {name: tuple(p.shape) for name, p in program.state_dict.items()}))
    assert graphs[0] == graphs[1]


def test_static_programs_refuse_other_sizes():
    model = export_model("detr")
    program = export_program(model, dynamic=False, batch=1, height=64, width=96).module()
    assert_equal(DeployedDetector(model=model), program, example_inputs(batch=1, height=64, width=96))
    with pytest.raises((AssertionError, RuntimeError)):
        program(*example_inputs(batch=1, height=96, width=96))


def test_bad_options():
    model = export_model("detr")
    with pytest.raises(ValueError, match="outputs='boxes': must be one of detections, pairs, raw"):
        DeployedDetector(model=model, outputs="boxes")
    with pytest.raises(UserError, match="a dynamic axis is traced with at least 2"):
        export_program(model, batch=1)
    model.postprocessor = None
    with pytest.raises(ValueError, match="a NoneType cannot be exported; export with outputs='raw'"):
        DeployedDetector(model=model, outputs="pairs")
