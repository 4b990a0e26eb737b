"""The networks of the peer benchmarks: well-known architectures with seeded random weights; nothing is downloaded.

`build(name)` gives a module in evaluation mode, `inputs(name, batch)` random inputs of it. Single layers (layers.py) are
networks too.
"""
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import torch.nn.functional as F
from torch import nn

import layers

NAMES = ["resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "bert_base", "gpt2", "yolo_like_n", "unet_small"]
VOCABULARY = {"bert_base": 30522, "gpt2": 50257}
SEQUENCE = 128
SIZES = {"yolo_like_n": 640, "unet_small": 256}


def convolution(inputs, outputs, kernel=3, stride=1, act=nn.SiLU):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), act()
    )


class Pair(nn.Module):
    """Two 3×3 convolutions, with a shortcut around them where asked."""

    def __init__(self, width, shortcut):
        super().__init__()
        self.body, self.shortcut = nn.Sequential(convolution(width, width), convolution(width, width)), shortcut

    def forward(self, x):
        return x + self.body(x) if self.shortcut else self.body(x)


class Stage(nn.Module):
    """Cross-stage partial block: half of the channels run through pairs, and every intermediate is joined at the end."""

    def __init__(self, inputs, outputs, pairs, shortcut):
        super().__init__()
        half = outputs // 2
        self.enter = convolution(inputs, outputs, 1)
        self.pairs = nn.ModuleList(Pair(half, shortcut) for _ in range(pairs))
        self.leave = convolution(half * (2 + pairs), outputs, 1)

    def forward(self, x):
        parts = list(self.enter(x).chunk(2, 1))
        for pair in self.pairs:
            parts.append(pair(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """Three poolings, one after the other, joined: windows of 5, 9 and 13."""

    def __init__(self, width):
        super().__init__()
        self.enter, self.leave = convolution(width, width // 2, 1), convolution(width * 2, width, 1)

    def forward(self, x):
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """An anchor-free detector of the size of the nano models of 2023: backbone, two-way feature pyramid, separate heads for
    boxes (as distributions over 16 distances) and 80 classes at strides 8, 16 and 32."""

    def __init__(self, size=640, classes=80, bins=16):
        super().__init__()
        widths, depths = [16, 32, 64, 128, 256], [1, 2, 2, 1]
        self.stem = convolution(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(convolution(i, o, 3, 2), Stage(o, o, n, True)) for i, o, n in zip(widths, widths[1:], depths)
        )
        low, middle, high = widths[2:]
        self.pyramid = Pyramid(high)
        self.up = nn.ModuleList([Stage(high + middle, middle, 1, False), Stage(middle + low, low, 1, False)])
        self.shrink = nn.ModuleList([convolution(low, low, 3, 2), convolution(middle, middle, 3, 2)])
        self.down = nn.ModuleList([Stage(low + middle, middle, 1, False), Stage(middle + high, high, 1, False)])

        def head(width, inner, outputs):
            return nn.Sequential(convolution(width, inner), convolution(inner, inner), nn.Conv2d(inner, outputs, 1))

        self.boxes = nn.ModuleList(head(w, 4 * bins, 4 * bins) for w in (low, middle, high))
        self.classes = nn.ModuleList(head(w, classes, classes) for w in (low, middle, high))
        self.bins = bins
        points, strides = [], []
        for stride in (8, 16, 32):
            side = torch.arange(size // stride) + 0.5
            y, x = torch.meshgrid(side, side, indexing="ij")
            points.append(torch.stack([x, y]).flatten(1))
            strides.append(torch.full((1, points[-1].shape[1]), float(stride)))
        self.register_buffer("points", torch.cat(points, 1))
        self.register_buffer("strides", torch.cat(strides, 1))
        self.register_buffer("distances", torch.arange(bins, dtype=torch.float32).view(1, 1, bins, 1))

    def forward(self, x):
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        low, middle, high = features[2], features[3], self.pyramid(features[4])
        middle = self.up[0](torch.cat([F.interpolate(high, scale_factor=2.0, mode="nearest"), middle], 1))
        low = self.up[1](torch.cat([F.interpolate(middle, scale_factor=2.0, mode="nearest"), low], 1))
        middle = self.down[0](torch.cat([self.shrink[0](low), middle], 1))
        high = self.down[1](torch.cat([self.shrink[1](middle), high], 1))
        levels = (low, middle, high)
        boxes = torch.cat([head(f).flatten(2) for head, f in zip(self.boxes, levels)], 2)
        scores = torch.cat([head(f).flatten(2) for head, f in zip(self.classes, levels)], 2)
        batch, _, count = boxes.shape
        sides = (boxes.view(batch, 4, self.bins, count).softmax(2) * self.distances).sum(2)
        begin, end = self.points - sides[:, :2], self.points + sides[:, 2:]
        return torch.cat([(begin + end) * 0.5 * self.strides, (end - begin) * self.strides, scores.sigmoid()], 1)


class Segmenter(nn.Module):
    """A U-Net: four levels of double convolutions, pooled on the way down, transposed convolutions on the way up."""

    def __init__(self, widths=(32, 64, 128, 256), classes=4):
        super().__init__()

        def double(inputs, outputs):
            return nn.Sequential(convolution(inputs, outputs, act=nn.ReLU), convolution(outputs, outputs, act=nn.ReLU))

        self.down = nn.ModuleList(double(i, o) for i, o in zip((3, *widths), widths))
        pairs = list(zip(widths[:0:-1], widths[-2::-1]))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.up = nn.ModuleList(double(2 * o, o) for _, o in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x):
        skipped = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skipped.append(x)
        skipped.pop()
        for grow, block in zip(self.grow, self.up):
            x = block(torch.cat([skipped.pop(), grow(x)], 1))
        return self.head(x)


class Output(nn.Module):
    """A transformer with token ids in and one tensor out."""

    def __init__(self, core, pick, **keywords):
        super().__init__()
        self.core, self.pick, self.keywords = core, pick, keywords

    def forward(self, ids):
        keywords = dict(self.keywords)
        # Without a mask the library looks for packed sequences, with an operator that the exporter does not know.
        if torch.onnx.is_in_onnx_export():
            keywords["attention_mask"] = torch.ones_like(ids)
        return getattr(self.core(input_ids=ids, **keywords), self.pick)


class Heads(nn.Module):
    """Attention over one tensor that holds q, k and v of every head."""

    def __init__(self, heads, size, causal):
        super().__init__()
        self.heads, self.size, self.causal = heads, size, causal

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = x.view(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return y.transpose(1, 2).reshape(batch, length, self.heads * self.size)


def architecture(name, attention):
    if single := layers.sizes(name):
        kind, a, b, c, *window = single
        if kind == "gemm":
            return nn.Linear(c, b, bias=False)
        if kind == "conv":
            kernel, stride = window
            return nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False)
        return Heads(a, c, kind == "causal")
    if name in VOCABULARY:
        import transformers

        if name == "bert_base":
            core = transformers.BertModel(transformers.BertConfig(attn_implementation=attention))
            return Output(core, "last_hidden_state")
        config = transformers.GPT2Config(attn_implementation=attention, use_cache=False)
        return Output(transformers.GPT2LMHeadModel(config), "logits", use_cache=False)
    if name == "yolo_like_n":
        return Detector(SIZES[name])
    if name == "unet_small":
        return Segmenter()
    import torchvision

    return getattr(torchvision.models, name)(weights=None)


def settle(model, make):
    """No parameter is left at zero, and batch normalisations know the statistics of their inputs: else errors hide behind
    outputs that are zero or do not depend on the input."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and not parameter.any():
                parameter.normal_(std=0.02)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            for _ in range(3):
                model(*make(4))
    return model.eval()


def inputs(name, batch, device="cpu"):
    """Fresh random inputs from torch's generator."""
    if single := layers.sizes(name):
        kind, a, b, c, *_ = single
        shape = {"gemm": (batch * a, c), "conv": (batch, a, c, c)}.get(kind, (batch, b, 3 * a * c))
        return (torch.randn(shape, device=device),)
    if name in VOCABULARY:
        return (torch.randint(0, VOCABULARY[name], (batch, SEQUENCE), device=device),)
    size = SIZES.get(name, 224)
    return (torch.randn(batch, 3, size, size, device=device),)


def build(name, attention="sdpa", device="cpu", weights=None):
    """The network in float32. Its weights are made up from a seed, or read from the file `weights`."""
    torch.manual_seed(0)
    # Its fused kernel is one operator that no exporter knows.
    torch.backends.mha.set_fastpath_enabled(False)
    model = architecture(name, attention).eval().to(device)
    if weights is None:
        model = settle(model, lambda batch: inputs(name, batch, device))
    else:
        model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
