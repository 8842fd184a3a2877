"""What the network is asked for: fire and smoke from boxes, the rest from the teacher.

Fire and smoke: each box is given to the predictions near its centre that fit it best
(SimOTA, Ge et al. 2021). Everywhere else their class is pushed to zero on every
prediction, weighted to the confident mistakes, save where a region is marked unknown.
People, vehicles, their boxes and the objectness are held to what the unchanged
YOLOX-nano says about the same picture.
"""

import torch
import torch.nn.functional as F

from data import UNKNOWN
from model import COCO_PERSON, COCO_VEHICLES, PERSON, decode

REACH = 2.5  # how far from a box's centre a prediction may stand, in strides


def overlap(a, b):
    """Generalised IoU and IoU of boxes that are broadcast against each other."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    total = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    iou = shared / total.clamp(min=1e-6)
    return iou - (around - total) / around.clamp(min=1e-6), iou


def divergence(logits, target):
    """Cross entropy less what no prediction can go below: zero where they agree."""
    least = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target))
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") - least


def inside(points, boxes):
    """[boxes, points]: whether each point lies in each box."""
    return ((points[None] > boxes[:, None, :2]) & (points[None] < boxes[:, None, 2:])).all(-1)


@torch.no_grad()
def assign(boxes, scores, rows, points, strides):
    """Which predictions answer for which row: (prediction indices, row indices, IoU)."""
    middle = (rows[:, 1:3] + rows[:, 3:5]) / 2
    near = ((points[None] - middle[:, None]).abs() < REACH * strides.view(1, -1, 1)).all(-1)
    candidate = near & inside(points, rows[:, 1:5])
    # A box smaller than a cell's reach still needs someone to answer for it.
    candidate |= near & ~candidate.any(1, keepdim=True)
    iou = overlap(rows[:, None, 1:5], boxes[None])[1] * candidate
    score = scores[:, rows[:, 0].long()].t().clamp(min=1e-6)
    cost = -score.log() - 3.0 * (iou + 1e-6).log() + 1e5 * ~candidate
    chosen = torch.zeros_like(candidate)
    for i in range(len(rows)):
        count = int(iou[i].topk(min(10, iou.shape[1])).values.sum().clamp(min=1))
        count = min(count, int(candidate[i].sum()))
        chosen[i, cost[i].topk(count, largest=False).indices] = True
    # A prediction answers for one row only: the cheapest.
    cost = cost.masked_fill(~chosen, float("inf"))
    answers = chosen.any(0).nonzero().squeeze(1)
    of_row = cost[:, answers].argmin(0)
    return answers, of_row, iou[of_row, answers]


def loss(raw, taught, rows, cells, strides):
    """The parts of the loss, each a scalar: a dict."""
    points = (cells + 0.5) * strides
    boxes = decode(raw, cells, strides)
    with torch.no_grad():
        taught_boxes = decode(taught, cells, strides)
        taught_object = taught[..., 4].sigmoid()
        vehicle = taught[..., [5 + row for row in COCO_VEHICLES]].max(-1).values
        taught_classes = torch.stack([taught[..., 5 + COCO_PERSON], vehicle], -1).sigmoid()
        scores = raw[..., 5:].sigmoid() * raw[..., 4:5].sigmoid()
    object_target = taught_object.clone()
    class_target = torch.zeros_like(raw[..., 5:7])
    class_weight = torch.ones_like(class_target)
    box_loss, answered = raw.new_zeros(()), 0
    for i, picture_rows in enumerate(rows):
        known = picture_rows[picture_rows[:, 0] < UNKNOWN]
        for c in range(2):
            # Inside a box or an unknown region nobody is told that there is no such thing.
            regions = picture_rows[picture_rows[:, 0] % UNKNOWN == c]
            if len(regions):
                class_weight[i, :, c] = (~inside(points, regions[:, 1:5]).any(0)).float()
        if not len(known):
            continue
        answers, of_row, iou = assign(boxes[i].detach(), scores[i], known, points, strides)
        kinds = known[of_row, 0].long()
        class_target[i, answers, kinds] = 0.5 + 0.5 * iou
        class_weight[i, answers, kinds] = 1.0
        object_target[i, answers] = torch.maximum(object_target[i, answers], 0.3 + 0.7 * iou)
        box_loss = box_loss + (1 - overlap(boxes[i, answers], known[of_row, 1:5])[0]).sum()
        answered += len(answers)
    per = max(answered, len(rows))
    burning = raw[..., 5:7]
    surprise = (burning.detach().sigmoid() - class_target).abs() ** 1.5
    class_loss = (F.binary_cross_entropy_with_logits(burning, class_target, reduction="none") * class_weight * surprise).sum()
    trust = taught_object + 0.01
    kept_class = divergence(raw[..., 5 + PERSON :], taught_classes) * trust[..., None]
    kept_box = taught_object * taught_classes.max(-1).values
    kept_box = kept_box * (kept_box > 0.1)
    return {
        "box": 3.0 * box_loss / per,
        "class": 2.0 * class_loss / per,
        "object": divergence(raw[..., 4], object_target).sum() / per,
        "kept class": 10.0 * kept_class.sum() / trust.sum(),
        "kept box": 6.0 * ((1 - overlap(boxes, taught_boxes)[0]) * kept_box).sum() / (kept_box.sum() + 1),
    }
