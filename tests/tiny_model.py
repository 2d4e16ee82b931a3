"""The smallest model and recipe that train in a moment."""

from sparse_aasist.models import AASISTConfig
from sparse_aasist.training.config import TrainingConfig

SMALL = AASISTConfig(
    dim=20, k=5, gat_dim=8, filts=(9, (1, 4), (4, 4), (4, 8), (8, 8)), first_conv=32
)
RECIPE = TrainingConfig(
    model=SMALL, epochs=2, batch_size=4, lr=3e-3, train_samples=3000, eval_samples=3000
)
