"""Published pruning methods for Llama-like models, written out plainly from their papers' formulas.

Every method removes so many *parameters* (embedding included, a tied head counted once) and leaves a model of
the same shape in which what it removed contributes nothing, so that plain transformers code can measure it: channels
and heads have their columns of `down` and `o` set to zero, layers are taken out, directions of the residual stream
are projected away.

A feed-forward channel is a row of gate, a row of up and a column of down; a group is one key-value head with its
query heads (rows of q, k, v, columns of o). `x` are the inputs of `down` or `o` over all calibration tokens.

| method | what it removes | importance |
|---|---|---|
| wanda | channels, as many in every layer that is not spared | sum_i |W_ij| * ||x_j||_2 (Sun et al., arXiv 2306.11695, per column) |
| wanda_sp | groups and channels, the same share of either in every layer | the same |
| flap | groups and channels of all layers in one ranking, with biases | sum_i W_ij^2 * Var(x_j), squared for heads, standardised in each layer (An et al., arXiv 2312.11983) |
| llm_pruner | groups and channels, the same share of either in layers that are not spared | sum |w g| (Ma et al., arXiv 2305.11627) |
| shortgpt | whole layers | 1 - E cos(x_in, x_out) (Men et al., arXiv 2403.03853) |
| greedy | whole layers, one after the other | loss without it, given those already gone |
| slicegpt | directions of the residual stream | principal components (Ashkboos et al., arXiv 2401.15024) |
| masks | groups and channels of all layers | learned gates, straight through, the hard mask kept on the budget (after DDP and GRASPrune) |
"""

import math

import torch
import torch.nn.functional as F

import common
import llm_pruner


class Shape:
    """Sizes of a model and what its units cost."""

    def __init__(self, model):
        config = model.config
        self.hidden = config.hidden_size
        self.layers = len(model.model.layers)
        self.ffn = config.intermediate_size
        self.heads = config.num_attention_heads
        self.groups = config.num_key_value_heads
        self.head = model.model.layers[0].self_attn.head_dim
        self.channel_cost = 3 * self.hidden
        self.group_cost = (2 * self.heads // self.groups + 2) * self.head * self.hidden
        self.layer_cost = sum(p.numel() for p in model.model.layers[0].parameters())
        self.all = sum(p.numel() for p in model.parameters())


class Cut:
    """Which units stay: `channels` [L, F] and `groups` [L, K], true for what stays."""

    def __init__(self, shape):
        self.shape = shape
        self.channels = torch.ones(shape.layers, shape.ffn, dtype=torch.bool)
        self.groups = torch.ones(shape.layers, shape.groups, dtype=torch.bool)

    def removed(self):
        """Parameters that are gone."""
        channels, groups = (~self.channels).sum().item(), (~self.groups).sum().item()
        return channels * self.shape.channel_cost + groups * self.shape.group_cost

    def drop_lowest(self, scores, layer, kind, count):
        """Removes the `count` lowest units of a layer."""
        getattr(self, kind)[layer, scores.argsort()[:count]] = False

    def apply(self, model, means=None):
        """Zeroes what is gone; with the means of the inputs, adds what it gave on the average as a bias."""
        for at, layer in enumerate(model.model.layers):
            heads = self.groups[at].repeat_interleave(self.shape.heads // self.shape.groups)
            of_o = heads.repeat_interleave(self.shape.head)
            for name, kept in [("o", of_o), ("down", self.channels[at])]:
                linear = layer.get_submodule(llm_pruner.PROJECTIONS[name])
                weight = linear.weight.data
                if means is not None and not kept.all():
                    bias = weight[:, ~kept] @ means[name][at][~kept]
                    linear.bias = torch.nn.Parameter(bias if linear.bias is None else linear.bias.data + bias)
                weight[:, ~kept] = 0.0


def spread(count, layers):
    """So many units over layers as evenly as whole numbers can be."""
    least, rest = divmod(count, len(layers))
    return {layer: least + (at < rest) for at, layer in enumerate(layers)}


@torch.no_grad()
def observe(model, samples, batch=8):
    """Number of tokens, sums and sums of squares of the inputs of `o` and `down`, in float64."""
    sums = {name: [] for name in ("o", "down")}
    handles = []
    for layer in model.model.layers:
        for name in sums:
            linear = layer.get_submodule(llm_pruner.PROJECTIONS[name])
            width = linear.in_features
            kept = [torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)]
            sums[name].append(kept)

            def hook(_, inputs, kept=kept):
                x = inputs[0].flatten(0, -2).double()
                kept[0] += x.sum(0)
                kept[1] += x.square().sum(0)

            handles.append(linear.register_forward_pre_hook(hook))
    for rows in samples.split(batch):
        model.model(rows, use_cache=False)
    for handle in handles:
        handle.remove()
    return samples.numel(), sums


def weight_of(model, layer, name):
    return model.model.layers[layer].get_submodule(llm_pruner.PROJECTIONS[name]).weight.data


def of_groups(values, shape):
    """Sums over the columns of each group's heads."""
    return values.view(shape.groups, -1).sum(1)


def wanda_scores(model, samples):
    _, sums = observe(model, samples)
    return {
        name: [
            weight_of(model, layer, name).abs().sum(0).double() * square.sqrt()
            for layer, (_, square) in enumerate(of_layers)
        ]
        for name, of_layers in sums.items()
    }


def wanda(model, samples, budget, options):
    """Channels alone."""
    shape = Shape(model)
    scores, cut = wanda_scores(model, samples), Cut(shape)
    for layer, count in spread(round(budget / shape.channel_cost), unspared(shape, options)).items():
        cut.drop_lowest(scores["down"][layer], layer, "channels", count)
    means = None
    if options.bias:
        means = input_means(model, samples)
    cut.apply(model, means)
    return cut.removed()


def input_means(model, samples):
    tokens, sums = observe(model, samples)
    return {name: [(total / tokens).float() for total, _ in layers] for name, layers in sums.items()}


def unspared(shape, options):
    first, last = options.protect
    return list(range(first, shape.layers - last))


def both_alike(model, scores, budget, options):
    """The same share of groups and channels in every layer that is not spared; channels make up for the
    coarseness of groups."""
    shape, cut = Shape(model), Cut(Shape(model))
    layers = unspared(shape, options)
    share = budget / len(layers) / (shape.groups * shape.group_cost + shape.ffn * shape.channel_cost)
    for layer in layers:
        cut.drop_lowest(scores["groups"][layer], layer, "groups", round(share * shape.groups))
    rest = round((budget - cut.removed()) / shape.channel_cost)
    for layer, count in spread(max(rest, 0), layers).items():
        cut.drop_lowest(scores["channels"][layer], layer, "channels", count)
    cut.apply(model)
    return cut.removed()


def wanda_sp(model, samples, budget, options):
    shape = Shape(model)
    scores = wanda_scores(model, samples)
    units = {"channels": scores["down"], "groups": [of_groups(values, shape) for values in scores["o"]]}
    return both_alike(model, units, budget, options)


def llm_pruner_taylor(model, samples, budget, options):
    llm_pruner.gradients(model, samples[: options.gradient_samples], second_order=False)
    of_layers = [
        llm_pruner.layer_scores(layer, "param_first", layer.self_attn.head_dim) for layer in model.model.layers
    ]
    model.zero_grad(set_to_none=True)
    units = {"channels": [s["ffn"] for s in of_layers], "groups": [s["kv_groups"] for s in of_layers]}
    return both_alike(model, units, budget, options)


def flap(model, samples, budget, options):
    shape, cut = Shape(model), Cut(Shape(model))
    tokens, sums = observe(model, samples)

    def standardised(values):
        return (values - values.mean()) / values.std()

    ranked = []
    for layer in range(shape.layers):
        metrics = {}
        for name in ("o", "down"):
            total, square = sums[name][layer]
            variance = square / tokens - (total / tokens).square()
            metrics[name] = weight_of(model, layer, name).double().square().sum(0) * variance
        # Heads' metric is squared before it is standardised, in the authors' code; a head is the mean of its columns.
        groups = standardised(metrics["o"].square()).view(shape.groups, -1).mean(1)
        ranked += [(score, "groups", layer, unit) for unit, score in enumerate(groups.tolist())]
        channels = standardised(metrics["down"]).tolist()
        ranked += [(score, "channels", layer, unit) for unit, score in enumerate(channels)]
    drop_in_order(cut, sorted(ranked), budget)
    cut.apply(model, input_means(model, samples))
    return cut.removed()


def drop_in_order(cut, ranked, budget):
    """Removes units from the lowest on, until the budget is met as closely as whole units can."""
    removed = 0
    for _, kind, layer, unit in ranked:
        cost = cut.shape.channel_cost if kind == "channels" else cut.shape.group_cost
        if removed + cost / 2 > budget:
            if kind == "channels":
                break
            continue
        getattr(cut, kind)[layer, unit] = False
        removed += cost


def without(model, layer):
    """Takes a layer out."""
    kept = [block for at, block in enumerate(model.model.layers) if at != layer]
    model.model.layers = torch.nn.ModuleList(kept)
    for at, block in enumerate(kept):
        block.self_attn.layer_idx = at


@torch.no_grad()
def shortgpt(model, samples, budget, options):
    shape = Shape(model)
    influence = torch.zeros(shape.layers, dtype=torch.float64)
    for rows in samples.split(8):
        states = model.model(rows, use_cache=False, output_hidden_states=True).hidden_states
        # The last state is normed already: what leaves the last layer is taken before that norm.
        for layer, (before, after) in enumerate(zip(states[:-2], states[1:-1])):
            influence[layer] += (1 - F.cosine_similarity(before, after, dim=-1)).double().sum()
        last = model.model.layers[-1]
        before, after = states[-2], run_layer(model, last, states[-2])
        influence[-1] += (1 - F.cosine_similarity(before, after, dim=-1)).double().sum()
    count = round(budget / shape.layer_cost)
    for layer in sorted(influence.argsort()[:count].tolist(), reverse=True):
        without(model, layer)
    return count * shape.layer_cost


def run_layer(model, layer, states):
    """One layer on full causal sequences."""
    places = torch.arange(states.shape[1])[None]
    found = layer(
        states,
        attention_mask=None,
        position_ids=places,
        position_embeddings=model.model.rotary_emb(states, places),
    )
    return found[0] if isinstance(found, tuple) else found


@torch.no_grad()
def loss(model, samples, batch=8):
    total = 0.0
    for rows in samples.split(batch):
        total += common.token_nll(model(rows, use_cache=False).logits, rows).double().sum().item()
    return total / (samples.numel() - len(samples))


def greedy(model, samples, budget, options):
    shape = Shape(model)
    judged = samples[: options.greedy_samples]
    count = round(budget / shape.layer_cost)
    for _ in range(count):
        blocks = model.model.layers
        losses = []
        for layer in range(len(blocks)):
            without(model, layer)
            losses.append(loss(model, judged))
            model.model.layers = blocks
        without(model, min(range(len(losses)), key=losses.__getitem__))
    return count * shape.layer_cost


@torch.no_grad()
def slicegpt(model, samples, budget, options):
    """Projects the stream on its leading principal components, behind the embedding and every sublayer, in turn.
    The parameters are those of the method's own form: every matrix that meets the stream keeps `k` of `H`, each
    sublayer gets a k x k matrix on its shortcut, norms are folded away, and a tied head is a matrix of its own,
    because the two ends of the stream are turned differently."""
    shape = Shape(model)
    inner = sum(
        weight_of(model, 0, name).shape[1 if name in ("o", "down") else 0] for name in llm_pruner.PROJECTIONS
    )
    rows = 2 * model.config.vocab_size + shape.layers * inner

    def parameters(k):
        return rows * k + 2 * shape.layers * k * k

    kept = min(range(1, shape.hidden + 1), key=lambda k: abs(shape.all - parameters(k) - budget))
    states = [model.model.embed_tokens(rows) for rows in samples.split(8)]
    project(model.model.embed_tokens, states, kept)
    for layer in model.model.layers:
        states = halves(model, layer, states, attention=True)
        after_attention = principal(states, kept)
        states = [x @ after_attention @ after_attention.T for x in states]
        states = halves(model, layer, states, attention=False)
        after_mlp = principal(states, kept)
        states = [x @ after_mlp @ after_mlp.T for x in states]
        wrap(layer, after_attention, after_mlp)
    return shape.all - parameters(kept)


def principal(states, kept):
    """The leading eigenvectors of the second moments, `[H, k]`."""
    moments = sum((x.flatten(0, 1).double().T @ x.flatten(0, 1).double()) for x in states)
    return torch.linalg.eigh(moments).eigenvectors[:, -kept:].float()


def project(embedding, states, kept):
    basis = principal(states, kept)
    embedding.register_forward_hook(lambda module, inputs, output: output @ basis @ basis.T)
    states[:] = [x @ basis @ basis.T for x in states]


def halves(model, layer, states, attention):
    """The stream behind the attention or behind the feed-forward sublayer of a layer."""
    out = []
    for x in states:
        if attention:
            places = torch.arange(x.shape[1])[None]
            y, _ = layer.self_attn(
                hidden_states=layer.input_layernorm(x),
                position_embeddings=model.model.rotary_emb(x, places),
                attention_mask=None,
            )
        else:
            y = layer.mlp(layer.post_attention_layernorm(x))
        out.append(x + y)
    return out


def wrap(layer, after_attention, after_mlp):
    """Projects the stream behind both sublayers whenever the layer runs."""
    # What enters the second norm is the stream behind attention; the residual must be projected as well, so the
    # sublayer's output is replaced by what takes the stream to its projection.
    state = {}
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: state.update(x=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )

    def attention_hook(module, inputs, output):
        after = state["x"] + output[0]
        state["y"] = after @ after_attention @ after_attention.T
        return (state["y"] - state["x"], *output[1:])

    def mlp_hook(module, inputs, output):
        after = state["y"] + output
        return after @ after_mlp @ after_mlp.T - state["y"]

    layer.self_attn.register_forward_hook(attention_hook)
    layer.mlp.register_forward_hook(mlp_hook)


def masks(model, samples, budget, options):
    """Gates on all groups and channels, from the same start, learned by Adam on the calibration text."""
    shape, cut = Shape(model), Cut(Shape(model))
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(options.seed)
    gates = {
        "channels": (1e-2 * torch.randn(shape.layers, shape.ffn, generator=generator)).requires_grad_(),
        "groups": (1e-2 * torch.randn(shape.layers, shape.groups, generator=generator)).requires_grad_(),
    }
    costs = torch.cat([
        torch.full((shape.layers * shape.ffn,), float(shape.channel_cost)),
        torch.full((shape.layers * shape.groups,), float(shape.group_cost)),
    ])

    def hard():
        """The lowest gates are off as far as the budget goes."""
        values = torch.cat([gates["channels"].detach().flatten(), gates["groups"].detach().flatten()])
        order = values.argsort(stable=True)
        off = costs[order].cumsum(0) <= budget
        kept = torch.ones_like(values)
        kept[order[off]] = 0.0
        # A group that does not fit leaves a rest, which the next channels fill.
        rest = round((budget - costs[order[off]].sum().item()) / shape.channel_cost)
        left = order[~off]
        kept[left[left < shape.layers * shape.ffn][:rest]] = 0.0
        split = shape.layers * shape.ffn
        return kept[:split].view(shape.layers, -1), kept[split:].view(shape.layers, -1)

    current = {}
    handles = []
    for at, layer in enumerate(model.model.layers):
        def channels(_, inputs, at=at):
            return (inputs[0] * current["channels"][at],)

        def heads(_, inputs, at=at):
            mask = current["groups"][at].repeat_interleave(shape.heads // shape.groups * shape.head)
            return (inputs[0] * mask,)

        handles.append(layer.mlp.down_proj.register_forward_pre_hook(channels))
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(heads))
    optimizer = torch.optim.Adam(gates.values(), lr=options.mask_rate)
    order = torch.randperm(len(samples), generator=generator)
    for step in range(options.mask_steps):
        progress = step / max(options.mask_steps - 1, 1)
        rate = options.mask_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        kept = dict(zip(("channels", "groups"), hard()))
        for kind, gate in gates.items():
            current[kind] = kept[kind] + gate - gate.detach()
        rows = samples[order[[(8 * step + at) % len(samples) for at in range(8)]]]
        common.token_nll(model(rows, use_cache=False).logits, rows).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for handle in handles:
        handle.remove()
    kept = hard()
    cut.channels, cut.groups = kept[0].bool(), kept[1].bool()
    cut.apply(model)
    return cut.removed()


METHODS = {
    "wanda": wanda,
    "wanda_sp": wanda_sp,
    "flap": flap,
    "llm_pruner": llm_pruner_taylor,
    "shortgpt": shortgpt,
    "greedy": greedy,
    "slicegpt": slicegpt,
    "masks": masks,
}
