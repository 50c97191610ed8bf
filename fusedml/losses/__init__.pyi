# Written by scripts/derived.py from the classes; a test holds it to them.

from fusedml.losses.angular import AngularLoss as AngularLoss
from fusedml.losses.arc_face import ArcFaceLoss as ArcFaceLoss
from fusedml.losses.base import BaseLoss as BaseLoss
from fusedml.losses.bpr import BPRLoss as BPRLoss
from fusedml.losses.center import CenterLoss as CenterLoss
from fusedml.losses.circle import CircleLoss as CircleLoss
from fusedml.losses.class_centers import ClassCentersLoss as ClassCentersLoss
from fusedml.losses.class_softmax import ClassSoftmaxLoss as ClassSoftmaxLoss
from fusedml.losses.class_weights import ClassWeightsLoss as ClassWeightsLoss
from fusedml.losses.clip import ClipLoss as ClipLoss
from fusedml.losses.contrastive import ContrastiveLoss as ContrastiveLoss
from fusedml.losses.cos_face import AMSoftmaxLoss as AMSoftmaxLoss, CosFaceLoss as CosFaceLoss
from fusedml.losses.distillation import DistillationLoss as DistillationLoss
from fusedml.losses.exponential_ranking import ExponentialRankingLoss as ExponentialRankingLoss
from fusedml.losses.fast_ap import FastAPLoss as FastAPLoss
from fusedml.losses.formula_loss import FormulaLoss as FormulaLoss, PairwiseLoss as PairwiseLoss, RowwiseLoss as RowwiseLoss
from fusedml.losses.histogram import HistogramLoss as HistogramLoss
from fusedml.losses.info_nce import InfoNCELoss as InfoNCELoss
from fusedml.losses.instance import InstanceLoss as InstanceLoss
from fusedml.losses.intra_pair_variance import IntraPairVarianceLoss as IntraPairVarianceLoss
from fusedml.losses.l2_softmax import L2SoftmaxLoss as L2SoftmaxLoss
from fusedml.losses.language_guidance import LanguageGuidanceLoss as LanguageGuidanceLoss
from fusedml.losses.large_margin_softmax import LargeMarginSoftmaxLoss as LargeMarginSoftmaxLoss, SphereFaceLoss as SphereFaceLoss
from fusedml.losses.lifted_structure import GeneralizedLiftedStructureLoss as GeneralizedLiftedStructureLoss, LiftedStructureLoss as LiftedStructureLoss
from fusedml.losses.margin import MarginLoss as MarginLoss
from fusedml.losses.multi_input import MultiInputLoss as MultiInputLoss
from fusedml.losses.multi_similarity import MultiSimilarityLoss as MultiSimilarityLoss
from fusedml.losses.n_pairs import NPairsLoss as NPairsLoss
from fusedml.losses.nca import NCALoss as NCALoss
from fusedml.losses.norm_face import NormFaceLoss as NormFaceLoss
from fusedml.losses.normalized_softmax import NormalizedSoftmaxLoss as NormalizedSoftmaxLoss
from fusedml.losses.nt_xent import NTXentLoss as NTXentLoss
from fusedml.losses.p2s_grad import P2SGradLoss as P2SGradLoss
from fusedml.losses.pnp import PNPLoss as PNPLoss
from fusedml.losses.proxy_anchor import ProxyAnchorLoss as ProxyAnchorLoss
from fusedml.losses.proxy_nca import ProxyNCALoss as ProxyNCALoss
from fusedml.losses.ranked_list import RankedListLoss as RankedListLoss
from fusedml.losses.s2sd import S2SDLoss as S2SDLoss
from fusedml.losses.sig_lip import SigLipLoss as SigLipLoss
from fusedml.losses.signal_to_noise_ratio_contrastive import SignalToNoiseRatioContrastiveLoss as SignalToNoiseRatioContrastiveLoss
from fusedml.losses.similarity_distillation import SimilarityDistillationLoss as SimilarityDistillationLoss
from fusedml.losses.smooth_ap import SmoothAPLoss as SmoothAPLoss
from fusedml.losses.soft_triple import SoftTripleLoss as SoftTripleLoss
from fusedml.losses.sub_center_arc_face import SubCenterArcFaceLoss as SubCenterArcFaceLoss
from fusedml.losses.sums import SumsLoss as SumsLoss, TermwiseLoss as TermwiseLoss
from fusedml.losses.sup_con import SupConLoss as SupConLoss
from fusedml.losses.threshold_consistent_margin import ThresholdConsistentMarginLoss as ThresholdConsistentMarginLoss
from fusedml.losses.triplet_margin import TripletMarginLoss as TripletMarginLoss
from fusedml.losses.tripletwise import TripletwiseLoss as TripletwiseLoss
from fusedml.losses.tuplet_margin import TupletMarginLoss as TupletMarginLoss
from fusedml.losses.two_towers import TwoTowerLoss as TwoTowerLoss
from fusedml.losses.vse import VSELoss as VSELoss
from fusedml.memory import CrossBatchMemory as CrossBatchMemory

LOSSES: dict[str, type[BaseLoss]]
TWO_TOWER_LOSSES: dict[str, type[TwoTowerLoss]]
DISTILLATION_LOSSES: dict[str, type[DistillationLoss]]
