"""LLM-Pruner's block-wise Taylor importance for Llama, written out plainly.

With w a weight, g the gradient of the mean loss over the samples, g_s that of
sample s alone and F the mean over samples of g_s squared, an element counts

    param_first   |w g|
    param_second  |w w F|          (LLM-Pruner has no factor 1/2 here)
    param_mix     |w g - 1/2 w w F|

and is summed over a row or column; `vectorize` is the absolute value of the sum
of w g over the row or column. A feed-forward channel is its row of gate, its
row of up and its column of down; the three are added (grouping "sum"). The
channels kept are those of the largest importance, in the order of their index.

For attention two scores are given, of the same parts: `query_heads` (rows of q,
columns of o) and `kv_groups` (rows of k and v, and the query heads that read
them). LLM-Pruner itself adds the parts of query heads i, i + K, ... to key-value
head i where heads are grouped, which are not the heads that share it; on models
without grouping `kv_groups` is its score of a head.

Prints JSON: per layer the kept channels and the raw scores of each importance.
"""

import pathlib

import torch

import common

IMPORTANCES = ["param_first", "vectorize", "param_second", "param_mix"]
PROJECTIONS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}


def gradients(model, samples, second_order):
    """Leaves g in `grad` and, where asked for, F in `fisher`, of every projection."""
    model.requires_grad_(False)
    weights = [
        layer.get_submodule(module).weight for layer in model.model.layers for module in PROJECTIONS.values()
    ]
    for weight in weights:
        weight.requires_grad_(True)
        weight.fisher = torch.zeros_like(weight) if second_order else None
    if second_order:
        for sample in samples:
            mean_loss(model, sample[None]).backward()
            for weight in weights:
                weight.fisher += weight.grad.square() / len(samples)
                weight.grad = None
    loss = mean_loss(model, samples)
    loss.backward()
    return loss.item()


def mean_loss(model, samples):
    return common.token_nll(model(samples, use_cache=False).logits, samples).mean()


def vector_scores(weight, importance, dim):
    """Importance of the rows (dim 1 summed) or columns (dim 0 summed) of a weight."""
    w, g, fisher = weight.detach(), weight.grad, weight.fisher
    if importance == "vectorize":
        return (w * g).sum(dim).abs()
    if importance == "param_first":
        elements = w * g
    elif importance == "param_second":
        elements = w * fisher * w
    else:
        elements = w * g - 0.5 * w * fisher * w
    return elements.abs().sum(dim)


def layer_scores(layer, importance, head_dim):
    """Scores of feed-forward channels [F], query heads [N] and key-value groups [K]."""

    def score(name):
        columns = name in ("o", "down")
        return vector_scores(layer.get_submodule(PROJECTIONS[name]).weight, importance, 0 if columns else 1)

    def heads(name):
        return score(name).view(-1, head_dim).sum(1)

    query = heads("q") + heads("o")
    key_value = heads("k") + heads("v")
    return {
        "ffn": score("gate") + score("up") + score("down"),
        "query_heads": query,
        "kv_groups": key_value + query.view(len(key_value), -1).sum(1),
    }


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--ids", type=pathlib.Path, required=True, help="samples of equal length: JSON array of arrays")
    parser.add_argument("--layers", type=int, nargs=2, metavar=("FIRST", "LAST"), help="both included (default: all)")
    parser.add_argument("--keep", type=int, required=True, help="feed-forward channels kept in each layer")
    parser.add_argument("--importance", choices=IMPORTANCES, nargs="+", default=IMPORTANCES)
    parser.add_argument("--out", type=pathlib.Path, help="file to write (default: stdout)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model = common.load_model(args.model, args.dtype, trust_remote_code=args.trust_remote_code)
    samples = torch.tensor(common.read_ids(args.ids), dtype=torch.long)
    second_order = any(i in ("param_second", "param_mix") for i in args.importance)
    loss = gradients(model, samples, second_order)

    first, last = args.layers or (0, model.config.num_hidden_layers - 1)
    layers = {}
    for index in range(first, last + 1):
        of_layer = layers[index] = {}
        for importance in args.importance:
            scores = layer_scores(model.model.layers[index], importance, model.model.layers[index].self_attn.head_dim)
            kept = torch.argsort(scores["ffn"])[len(scores["ffn"]) - args.keep :]
            of_layer[importance] = {
                "ffn_kept": sorted(kept.tolist()),
                **{f"{kind}_scores": values.tolist() for kind, values in scores.items()},
            }
    common.write_json({"loss": loss, "samples": len(samples), "keep": args.keep, "layers": layers}, args.out)


if __name__ == "__main__":
    main()
