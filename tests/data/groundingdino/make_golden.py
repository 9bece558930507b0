"""Make golden.npz: what the unpatched package gives for one picture. Runs where the package runs unpatched:

pip install torch==2.14.0 torchvision==0.29.0 transformers==4.57.1 supervision pycocotools timm addict yapf
pip install --no-build-isolation --no-deps groundingdino-py==0.4.0
python tests/data/groundingdino/make_golden.py
"""

import sys
import tempfile
from pathlib import Path

import groundingdino
import numpy as np
import torch
import transformers
from groundingdino.datasets import transforms
from groundingdino.models import build_model
from groundingdino.util.slconfig import SLConfig
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "stages"))
from tiny_groundingdino import bert_folder, fill, picture  # noqa: E402

CAPTION = "woman . red hat . hot dog . dog ."
SIDE_PX = 256
PICTURE = (270, 300)


def main() -> None:
    assert transformers.__version__ == "4.57.1", transformers.__version__
    torch.set_num_threads(1)
    args = SLConfig.fromfile(str(Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"))
    with tempfile.TemporaryDirectory() as folder:
        args.text_encoder_type = str(bert_folder(Path(folder)))
        transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).save_pretrained(folder)
        model = fill(build_model(args), ordered_queries=False).eval()
    resize = transforms.Compose(
        [
            transforms.RandomResize([SIDE_PX], max_size=1333),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    pixels, _ = resize(Image.fromarray(picture(*PICTURE)), None)
    with torch.no_grad():
        outputs = model(pixels[None], captions=[CAPTION])
    ids = model.tokenizer(CAPTION)["input_ids"]
    boxes, logits = outputs["pred_boxes"][0].numpy(), outputs["pred_logits"][0, :, : len(ids)].numpy()
    np.savez_compressed(
        HERE / "golden.npz", boxes=boxes, logits=logits, ids=np.array(ids), pixels=pixels[:, ::16, ::16].numpy()
    )


if __name__ == "__main__":
    main()
