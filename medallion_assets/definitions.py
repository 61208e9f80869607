"""The entry point: settings from the environment, resources, assets, checks, jobs and sensors in
one Definitions.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster_deltalake import DeltaTableResource, LocalConfig

from medallion_assets import tables
from medallion_assets.bronze import assets as bronze_assets
from medallion_assets.champion import assets as champion_assets
from medallion_assets.checks import build_checks
from medallion_assets.environment import current_settings
from medallion_assets.given import assets as given_assets
from medallion_assets.jobs import build_jobs, build_plan_jobs
from medallion_assets.partitions import month_partitions
from medallion_assets.report import assets as report_assets
from medallion_assets.served import assets as served_assets
from medallion_assets.silver import assets as silver_assets
from medallion_assets.watch import assets as watch_assets
from medallion_assets.watch.sensors import build_sensors
from medallion_assets.zoo import assets as zoo_assets
from medallion_assets.zoo.packaged import ZooModels
from medallion_assets.zoo.registry import enabled
from resources.dagster_tracking import mlflow_tracking
from resources.engines import SparkResource, spark_resource
from resources.lakehouse import LEDGER, DeltaLakehouse, LakehouseOptions
from resources.orders import LocalOrderFiles
from resources.reports import LocalReportFiles
from resources.settings import Settings
from resources.tracking import MlflowTracking


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions of the configured lakehouse, for Dagster's processes."""
    settings = current_settings()
    return build_defs(settings, build_resources(settings))


def newest_partition(settings: Settings) -> str:
    """Key of the running month: where deliveries are registered."""
    return str(month_partitions(settings.first_month).get_last_partition_key())


class LakehouseResource(dg.ConfigurableResource):
    """The Delta tables of the configuration, over the injected engine."""

    spark: dg.ResourceDependency[SparkResource]
    root: str
    catalog: str
    schemas: dict[str, str]
    max_removed_share: float
    retention_months: int

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[DeltaLakehouse]:
        options = LakehouseOptions(
            self.root, self.catalog, self.schemas, self.max_removed_share, self.retention_months
        )
        lakehouse = DeltaLakehouse(self.spark.engine, options)
        try:
            yield lakehouse
        finally:
            lakehouse.kept.forget()


def build_resources(settings: Settings) -> dict[str, Any]:
    """The real resources: Spark, the lakehouse over it, order and report files, MLflow, and tables
    that sensors read without Spark.
    """
    spark = spark_resource(settings)

    @contextmanager
    def opened(context: dg.InitResourceContext) -> Iterator[MlflowTracking]:
        with mlflow_tracking(settings, context, ZooModels()) as tracking:
            yield tracking

    @dg.resource(description="MLflow tracking and registry; connected when first used.")
    def tracking(context: dg.InitResourceContext) -> Iterator[MlflowTracking]:
        with opened(context) as found:
            yield found

    layers = settings.schemas.model_dump()
    return {
        "spark": spark,
        "lakehouse": LakehouseResource(
            spark=spark,
            root=settings.lakehouse_root,
            catalog=settings.catalog,
            schemas=layers,
            max_removed_share=settings.writes.max_removed_share,
            retention_months=settings.retention.reproducible_months,
        ),
        "orders": dg.ResourceDefinition.hardcoded_resource(LocalOrderFiles()),
        "reports": dg.ResourceDefinition.hardcoded_resource(
            LocalReportFiles(settings.reports_folder)
        ),
        "tracking": tracking,
        **{
            name: DeltaTableResource(
                url=f"{settings.lakehouse_root}/{layers[spec.layer]}/{spec.name}",
                storage_options=LocalConfig(),
            )
            for name, spec in (
                ("deliveries_table", tables.DELIVERIES),
                ("champion_table", tables.CHAMPION),
                ("decision_table", tables.RETRAINING_DECISION),
                ("ledger_table", LEDGER),
            )
        },
    }


def build_defs(settings: Settings, resources: Mapping[str, Any]) -> dg.Definitions:
    """All definitions of a configuration over the given resources."""
    modules = (
        bronze_assets,
        silver_assets,
        given_assets,
        zoo_assets,
        champion_assets,
        served_assets,
        report_assets,
        watch_assets,
    )
    assets = [module.build_assets(settings) for module in modules]
    model_keys = {spec.name: zoo_assets.model_key(spec.name) for spec in enabled(settings)}
    jobs = build_jobs(model_keys, settings.given_forecasts)
    return dg.Definitions(
        assets=[
            *(asset for group in assets for asset in group),
            *bronze_assets.external_assets(settings),
        ],
        asset_checks=build_checks(
            settings,
            model_keys,
            has_own_bronze=any(source.mode != "adopt" for source in settings.sources),
        ),
        jobs=[*jobs.values(), *build_plan_jobs(settings)],
        sensors=build_sensors(
            settings, jobs["register_deliveries"], jobs["monthly_forecast"], jobs["retraining"]
        ),
        resources=dict(resources),
        executor=dg.in_process_executor,
    )
